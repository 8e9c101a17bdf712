"""Modules that are not traced: what they take and return is learnt by running them."""
