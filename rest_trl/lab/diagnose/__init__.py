"""Where the gradient's noise comes from, by region and rule, and the paper's theory measured on a policy."""
