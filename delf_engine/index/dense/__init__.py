"""One vector an image: bags of words, VLAD and Fisher vectors, compared by faiss."""
