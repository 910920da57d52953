"""Attacks with shadows against closed forms, hand counts and peers; nothing where there is nothing, and never the target."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, softmax

from kr_utils import InputError, attacks, metrics
from kr_utils import shadow_attacks as sa

