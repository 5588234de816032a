"""Base media: what a recovery image is made from.

`linux` is Debian's signed boot programs, kernel and packages (`apt` gets them, `packages` chooses, `unpack` unpacks).
Base media that the user owns (a Windows install ISO, an ADK folder, a WinRE image) become modules of their own here.
"""
