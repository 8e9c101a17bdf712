"""What operators do with a tensor's contents: fill, write to, copy, or ignore them."""

# They fill the tensor they are called on, whatever it held.
FILLS = {
    *("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_"),
    *("log_normal_", "zero_", "fill_", "copy_", "set_"),
}
# They look at a tensor's shape, not at its contents.
SHAPE_ONLY = {
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("randint_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
    "is_same_size",
}
COPIES = {"clone", "_to_copy"}
# They write to nothing but the tensor they are called on, element by element.
WRITES = {
    *("zero_", "fill_", "copy_", "mul_", "div_", "add_", "sub_", "neg_", "abs_", "clamp_"),
    *("clamp_min_", "clamp_max_", "erfinv_", "exp_", "log_", "sqrt_", "pow_", "masked_fill_"),
    *("triu_", "tril_"),
}
# They fill a tensor with random numbers, whose words `skip_draws` can count.
DRAWS = {"normal_", "uniform_"}
# Functions of torch.random that read or set the generator's state.
STATE = ("get_rng_state", "set_rng_state", "manual_seed", "seed", "initial_seed")
# Methods that read a tensor's memory from Python.
READS = ("numpy", "tolist", "__array__")
