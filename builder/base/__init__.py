"""Base media: what a recovery image is made from.

`linux` is Debian's signed boot programs, kernel and packages (`apt` gets them, `packages` chooses, `unpack` unpacks).
Base media that the user owns are `windows_iso`, `adk` and `winre`, all behind `windows`.
"""
