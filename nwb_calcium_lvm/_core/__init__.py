"""What the estimators share: coercion of inputs, validation, precision, persistence."""
