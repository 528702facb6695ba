"""What is to be done: a pure function of a case, its history and the policy."""
