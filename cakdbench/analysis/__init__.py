"""Look into trained models: similarity of features, heat maps, attention, agreement of predictions.

Each kind of analysis is a function that returns a frame or arrays; `figures` draws them, `cakdbench analyse` does both.
"""

from cakdbench.analysis.agreement import agreement
from cakdbench.analysis.maps import attention_flow, attention_maps, feature_maps, received_maps
from cakdbench.analysis.similarity import linear_cka, projected_similarity, similarity

__all__ = [
    "agreement",
    "attention_flow",
    "attention_maps",
    "feature_maps",
    "linear_cka",
    "projected_similarity",
    "received_maps",
    "similarity",
]
