"""Side by side with plain implementations; run by hand, not part of the tests."""
