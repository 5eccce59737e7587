use crate::testing::{cases, check};

#[test]
fn recorded_sessions() {
    for case in cases("postgresql") {
        check(&case);
    }
}
