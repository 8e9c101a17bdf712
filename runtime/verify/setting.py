"""How both runs that verify compares are trained."""

# The least eps of optimizers. With its default of 1e-8 Adam makes whole steps of the rounding noise
# in gradients that are zero in exact arithmetic, such as those of attention's key biases.
EPS = 1e-4
