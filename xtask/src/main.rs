//! The developer commands: demo, test, bench, kernels, image.
fn main() {}
