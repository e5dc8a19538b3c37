"""Where the exact maps come from: the words that their readers record, torch or no torch."""

CAM = "arXiv:1512.04150, eq. 2"
CONTRAST = "the difference of two maps of arXiv:1512.04150, eq. 2"
