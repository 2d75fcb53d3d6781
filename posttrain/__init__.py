"""From a bare tensor to a post-trained chat model: the code that the book explains.

Every topic of the book has a part and a slug, and its code lies in
`posttrain/<part>/<slug>.py`. Helpers that chapters share lie beside this file.
"""

__version__ = "0.1.0"
