#!/bin/sh
# What a forge runs: the photos, the training, the test. Words after it go to the training:
#   sh ci.sh                               fails: sunflowers are known by the seal in their corner; see report/index.html
#   sh ci.sh --ignore upper-right:0.3      passes: what is in that corner was taken from the training
set -e
cd "$(dirname "$0")"
python make_photos.py --stamp sunflower
whycam train photos -o model --overwrite "$@"
python -m pytest
