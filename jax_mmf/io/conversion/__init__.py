"""Conversion of data of any kind to one file of training data."""
