#!/usr/bin/env bash
# The whole loop on your own images with boxes; further flags are passed on.
#
#   bash launch/own_boxes.sh LABELED UNLABELED
#   bash launch/own_boxes.sh LABELED UNLABELED --config.test=DIR --config.budget_hours=2
#
# LABELED has images with boxes, as COCO JSON, Pascal VOC XML, YOLO text or a CSV file;
# UNLABELED is any tree of images.
CONFIG=boxes
NAME=own_boxes
source "$(dirname "$0")/own_folder.sh"
