#!/usr/bin/env bash
# The whole loop on your own images; further flags are passed on.
#
#   bash launch/own_images.sh LABELED UNLABELED
#   bash launch/own_images.sh LABELED UNLABELED --config.test=DIR --config.budget_hours=2
#
# LABELED has one sub-folder per class (or is a CSV file with columns path and label);
# UNLABELED is any tree of images.
CONFIG=folder
NAME=own_images
source "$(dirname "$0")/own_folder.sh"
