"""Base classes of the parts that plugins supply: encoders, attentions, poolings and tokenizers."""
