"""Synthetic chest radiographs with all fourteen findings of ChestX-ray14, laid out like it. Nothing here imports torch."""

from chestmap.phantom.draw import Case, Drawing, draw
from chestmap.phantom.population import Population, make_population
from chestmap.phantom.settings import PhantomSettings
from chestmap.phantom.write import write_phantom

__all__ = ["Case", "Drawing", "PhantomSettings", "Population", "draw", "make_population", "write_phantom"]
