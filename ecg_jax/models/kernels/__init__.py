"""Operations with gradients of their own, where XLA has slow ones."""
