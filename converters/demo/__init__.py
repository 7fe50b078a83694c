"""`zoo demo`: whole jobs on text that every Python carries; nothing is downloaded.

`realm` answers questions and is the default; `rembert` sorts paragraphs into chapters.
"""
