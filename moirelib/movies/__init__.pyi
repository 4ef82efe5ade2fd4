from .movie import Movie as Movie, checked_frame as checked_frame
from .reading import as_movie as as_movie, read_movie as read_movie
from .writing import LayerMovieWriter as LayerMovieWriter, write_layer_movie as write_layer_movie
