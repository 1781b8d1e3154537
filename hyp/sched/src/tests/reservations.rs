//! Budgets and deadlines.
