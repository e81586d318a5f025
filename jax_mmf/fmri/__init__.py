"""Brain imaging: sparse maps from 4D images, with nilearn and nibabel (extra ``fmri``)."""
