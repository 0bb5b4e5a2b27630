"""Boxes that people have drawn: their formats, read and written.

`formats.read` finds out the format of a folder (COCO JSON, Pascal VOC XML, YOLO text or
a CSV of boxes), reads it (`coco`, `voc`, `yolo`, `boxes_csv`) and checks it (`checks`).
`write` writes boxes in these formats.
"""
