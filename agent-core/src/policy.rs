//! Policy files -> typed rules, all errors at once.
