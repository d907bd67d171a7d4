//! The generated protocol buffers and their conversions to the domain's types.
