"""The command ``jax-mmf``: one module for each of its commands."""

import os
import sys
import warnings
from typing import Any

# JAX's linear algebra on CPU is SciPy's OpenBLAS, whose threads compete with XLA's. It reads this at its first use.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import click
    import tqdm  # noqa: F401  # reported here if it is missing, not in the middle of a command
except ImportError as missing:  # pragma: no cover - depends on what is installed
    sys.exit(f"jax-mmf: the command needs {missing.name}: pip install 'jax-mmf[cli]'")

import jax_mmf as mmf
from jax_mmf.cli import convert, demo, denoise, encode, fit, fmri, info, inpaint, recommend, unmix


def main() -> None:
    """Run the command; errors that a user can correct become one line and exit status 1."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = _group(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("jax-mmf: stopped", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _show_error(error.format_message())
        sys.exit(error.exit_code)
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, ImportError, MemoryError) as error:
        _show_error(error.args[0] if isinstance(error, KeyError) and error.args else error)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mmf.__version__, prog_name="jax-mmf")
def _group() -> None:
    """Factorize massive matrices: X (n samples, p features) ~ codes times a dictionary of k atoms."""


for _module in (convert, demo, denoise, encode, fit, fmri, info, inpaint, recommend, unmix):
    _group.add_command(_module.command)


def _show_error(text: Any) -> None:
    click.echo(f"jax-mmf: {' '.join(str(text).split())}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _show_error(f"warning: {message}")
