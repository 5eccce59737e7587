//! (policy, statement, identity) -> verdict and the rule that gave it. Pure; sees no protocol type.
