"""What a plugin supplies and a stage uses: encoders, attentions, pools and tokenizers, as base classes."""
