"""A Hugging Face folder in place of a job file."""
