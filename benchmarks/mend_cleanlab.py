"""cleanlab's order of the labels, for benchmarks/mend.py; runs where cleanlab is installed, and imports no whycam."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

work = Path(sys.argv[1])
content = np.load(work / "features.npz")
values, labels = content["values"], content["labels"]
# As its own guide does: probabilities of photos that the classifier did not see.
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
shares = cross_val_predict(model, values, labels, cv=5, method="predict_proba")
issues = find_label_issues(labels, shares, return_indices_ranked_by="self_confidence").tolist()
rest = [row for row in np.argsort(get_label_quality_scores(labels, shares)).tolist() if row not in set(issues)]
(work / "cleanlab.json").write_text(json.dumps([*issues, *rest]))
