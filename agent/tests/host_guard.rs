//! Kernel programs of the gate -> the verifier.

use agent_common::gate::{Framing, Shared};

#[test]
fn the_kernel_takes_the_programs_of_the_gate() {
    let framing = Framing { more: 1, padding: 0, acts: [0; 256] };
    let guard = agent::gate::guard::Guard::attach(&[framing], Shared::default());
    if let Err(agent::capture::live::CaptureError::Program { source, .. }) = &guard {
        let t = format!("{source:?}");
        std::fs::write("/tmp/verif.txt", t).unwrap();
    }
    let guard = guard.unwrap();
    assert!(guard.enrolled().is_empty());
}
