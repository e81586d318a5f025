"""Ctrl-C: `deferred_interrupt`."""

import signal
import threading

import pytest

from jax_mmf.training.interrupt import deferred_interrupt


def test_the_first_is_noted_and_the_second_raises(capsys):
    with deferred_interrupt("ending") as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        assert capsys.readouterr().err == "\nending\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), deferred_interrupt():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_nested_ones_share_the_note(capsys):
    with deferred_interrupt("outer") as outer:
        with deferred_interrupt("inner") as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner()
        assert outer()
        with deferred_interrupt() as later:
            assert later()
    assert capsys.readouterr().err == "\nouter\n"


def test_handlers_of_the_user_stay():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with deferred_interrupt() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_other_threads_have_no_signals():
    found = []

    def run():
        with deferred_interrupt() as interrupted:
            found.append((interrupted(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, signal.default_int_handler)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_other_signals_too_if_asked_for(number):
    """A block inside, that asks for Ctrl-C alone, hears of them; so it does where Ctrl-C is ignored, as with nohup."""
    for at_first in (signal.default_int_handler, signal.SIG_IGN):
        before = signal.signal(signal.SIGINT, at_first)
        try:
            with deferred_interrupt(signals=(signal.SIGINT, signal.SIGTERM)) as outer, deferred_interrupt() as inner:
                signal.raise_signal(number)
                ignored = number == signal.SIGINT and at_first == signal.SIG_IGN
                assert outer() == inner() == (0 if ignored else number)
            assert signal.getsignal(signal.SIGINT) is at_first
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGINT, before)
