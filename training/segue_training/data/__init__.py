"""From corpora to minibatches."""
