//! What a network is: shapes, weights, tokenizer, sampling. Files flow in, mapped tensors flow out.
