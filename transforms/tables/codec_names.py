"""The names of the codecs, which the command line offers without importing PyArrow."""

CODECS = ("pca128", "float16", "float32")
