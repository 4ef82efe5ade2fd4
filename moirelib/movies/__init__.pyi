from .layer_movie_writing import write_layer_movie as write_layer_movie
from .movie import Movie as Movie, cut_movie as cut_movie
from .reading import as_movie as as_movie, read_movie as read_movie
