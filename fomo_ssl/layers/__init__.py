"""Building blocks that encoders and heads share: convolution, attention, tokens."""
