"""The hot loop: noisy copies through the classifier, votes counted."""
