//! Kernel programs of the gate -> the verifier.

use agent::gate::guard::Guard;
use agent_common::gate::{Framing, Shared};

#[test]
fn the_kernel_takes_the_programs_of_the_gate() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("the_kernel_takes_the_programs_of_the_gate: needs root");
        return;
    }
    let framing = Framing { more: 1, never: 0, acts: [0; 256] };
    let guard =
        Guard::attach(&[framing], Shared::default(), true).map_err(|error| error.to_string()).unwrap();
    assert_eq!(guard.open(), 0);
    assert_eq!(guard.tally(), agent_common::gate::Tally::default());
}
