"""Build the user's model without holding it whole: shapes, buffers, a few parameters' values."""
