"""Loss functions for face embeddings: triplet losses with in-batch mining, center loss, norm loss.

    loss, active = triplet_loss(model(crops), labels)

The functions use keras.ops only, so they run on any backend of Keras 3, and they keep no state.
Batches may have any size, also under tf.function. XLA is not supported, because the number of pairs
in a batch is known only at run time. The arithmetic and the result are float32 for every input
type.
"""

import math

from keras import ops

MARGIN = 0.2  # of squared distances; arXiv 1503.03832, section 3.3
NORM_EPSILON = 1e-4  # davidsandberg/facenet, src/train_softmax.py


def triplet_loss(embeddings, labels, margin=MARGIN, mining="semi-hard"):
    """The triplet loss over the triplets mined in a batch.

    A triplet is an anchor a, a positive p (another face of the same person) and a negative n (a
    face of a different person). With squared Euclidean distances d, its loss is
    max(0, d(a, p) - d(a, n) + margin): arXiv 1503.03832, section 3.1. A triplet with a loss above
    zero is active. Every face of the batch serves as an anchor. The mining strategies differ in
    which triplets they select, and in what the loss is averaged over:

    semi-hard: section 3.2, which takes all anchor-positive pairs, and for each a negative that is
      farther than the positive but inside the margin. For each pair, in both orders, this selects
      the nearest negative with d(a, n) > d(a, p); a pair without one has no triplet. The loss is
      the mean over the active triplets. davidsandberg/facenet (src/train_tripletloss.py,
      select_triplets) takes each pair in one order only, and draws one at random from all negatives
      that violate the margin, including those nearer than the positive. TensorFlow Addons'
      triplet_semihard_loss selects the same negative as here, but falls back to the farthest
      negative for a pair without one, and divides by the number of all pairs.
    batch-hard: arXiv 1703.07737, section 2. For each anchor, this selects its farthest positive
      with its nearest negative. The loss is the mean over all anchors that have both.
    batch-all: same section. This selects all triplets. The loss is the mean over the active ones
      (that paper's variant "BA not 0").

    Memory: a few arrays with one element per anchor-positive pair and face of the batch.

    Args:
      embeddings: (n, d) float, unit vectors.
      labels: (n,) int, the person of each face.
      margin: a squared distance, positive.
      mining: a name in MININGS.

    Returns:
      loss: () float32; zero, with zero gradients, when no triplet is active.
      active: () float32, the fraction of the mined triplets that are active, for monitoring; zero
        when no triplet was mined.

    Raises:
      ValueError: `mining` is unknown.
    """
    labels = ops.convert_to_tensor(labels)
    is_trained = ops.ones_like(labels, dtype="bool")
    return _mined_loss(ops.cast(embeddings, "float32"), labels, is_trained, margin, mining)


def harmonic_triplet_loss(new, old, labels, margin=MARGIN, mining="semi-hard"):
    """A triplet loss that makes a new model's vectors comparable with an old model's.

    The harmonic triplet loss of arXiv 1503.03832, appendix: triplets mix the vectors that both
    models give the same faces. It is triplet_loss over the 2n vectors, old and new, without the
    triplets that consist of old vectors only, which training cannot change. The old vectors are
    constants. The two vectors of one face are a positive pair like any other, so even a person
    with a single photo contributes to aligning the two spaces. The paper's aim that a new vector
    may correct a badly placed old one still holds, because the loss does not require the two to
    coincide.

    Where an old anchor's farthest positive and nearest negative are both old, batch-hard selects
    the triplet with the highest loss among the remaining ones.

    Args:
      new: (n, d) float, the trained model's unit vectors.
      old: (n, d) float, the old model's unit vectors of the same faces, in the same order.
      labels, margin, mining: as for triplet_loss.

    Returns:
      loss, active: as for triplet_loss.

    Raises:
      ValueError: new and old differ in width, or `mining` is unknown.
    """
    new, old = ops.cast(new, "float32"), ops.stop_gradient(ops.cast(old, "float32"))
    if new.shape[-1] != old.shape[-1]:
        raise ValueError(
            f"the new embeddings have {new.shape[-1]} dimensions and the old ones {old.shape[-1]}: "
            "to be comparable with the old model, build the new one with the same number"
        )
    labels = ops.convert_to_tensor(labels)
    is_trained = ops.concatenate(
        [ops.ones_like(labels, dtype="bool"), ops.zeros_like(labels, dtype="bool")]
    )
    both, labels = ops.concatenate([new, old]), ops.concatenate([labels, labels])
    return _mined_loss(both, labels, is_trained, margin, mining)


def center_loss(prelogits, labels, centers, rate):
    """The center loss of a batch, and the updated centers.

    The center loss of Wen et al. (ECCV 2016) in the form of davidsandberg/facenet (src/facenet.py,
    center_loss): every face in the batch moves its person's center by rate times the difference.
    The center of a person with k faces moves by the sum of k such steps; the paper divides that sum
    by k + 1.

    Args:
      prelogits: (n, d) float, the network's output before normalization.
      labels: (n,) int, each face's row of centers.
      centers: (people, d) float32; initially zeros, as published.
      rate: the fraction of the difference by which a face moves its center: 1 - alfa in the
        published options, whose default alfa of 0.95 is a rate of 0.05.

    Returns:
      loss: () float32, the mean over faces and dimensions of the squared differences to the
        centers as given.
      new_centers: (people, d) float32, for the caller to assign. No gradient flows into centers.
    """
    prelogits = ops.cast(prelogits, "float32")
    centers = ops.stop_gradient(ops.cast(centers, "float32"))
    labels = ops.convert_to_tensor(labels)
    difference = prelogits - ops.take(centers, labels, axis=0)
    steps = rate * ops.stop_gradient(difference)
    new_centers = centers + ops.segment_sum(steps, labels, num_segments=centers.shape[0])
    return ops.mean(ops.square(difference)), new_centers


def norm_loss(prelogits, p=1.0):
    """The mean over a batch of the p-norm of |prelogits| + NORM_EPSILON: () float32.

    Added with a small factor, it keeps the (n, d) activations before normalization from growing
    (davidsandberg/facenet, src/train_softmax.py, prelogits_norm_loss_factor).
    """
    magnitudes = ops.abs(ops.cast(prelogits, "float32")) + NORM_EPSILON
    return ops.mean(ops.norm(magnitudes, ord=p, axis=1))


def _mined_loss(vectors, labels, is_trained, margin, mining):
    """(loss, active) of the mined triplets that have at least one trained vector.

    Args:
      vectors: (m, d) float32.
      labels: (m,) int.
      is_trained: (m,) bool.
    """
    if mining not in MININGS:
        raise ValueError(f"unknown mining {mining!r}: choose one of {', '.join(MININGS)}")
    distances = _squared_distances(vectors)
    same = ops.equal(labels[:, None], labels[None, :])
    faces = ops.arange(ops.shape(labels)[0])
    identical = ops.equal(faces[:, None], faces[None, :])

    # One row per anchor-positive pair, t of them, and one column per negative.
    anchor, positive = ops.nonzero(same & ~identical)
    pair = anchor * ops.shape(labels)[0] + positive
    excess = ops.take(ops.reshape(distances, (-1,)), pair)[:, None] - ops.take(distances, anchor, 0)
    pair_is_trained = ops.take(is_trained, anchor) | ops.take(is_trained, positive)
    triplets = ~ops.take(same, anchor, 0) & (pair_is_trained[:, None] | is_trained[None, :])

    mined = MININGS[mining](triplets, ops.stop_gradient(excess), anchor)
    active = mined & (excess + margin > 0)
    cost = ops.sum(ops.where(active, excess + margin, 0.0))
    n_active, n_mined = (ops.sum(ops.cast(which, "float32")) for which in (active, mined))
    n_mean = n_mined if mining == "batch-hard" else n_active
    return cost / ops.maximum(n_mean, 1.0), n_active / ops.maximum(n_mined, 1.0)


def _squared_distances(vectors):
    """(m, m), from dot products, so that gradients stay finite where vectors coincide."""
    products = ops.matmul(vectors, ops.transpose(vectors))
    squares = ops.diagonal(products)
    return squares[:, None] + squares[None, :] - 2 * products


# A mining function takes the possible triplets, (t, m) bool, their excess d(a, p) - d(a, n),
# (t, m), and the anchor of each row, (t,) int in ascending order. It returns the mined triplets,
# (t, m) bool.


def _semi_hard(triplets, excess, anchor):
    return _largest_in_row(triplets & (excess < 0), excess)


def _batch_hard(triplets, excess, anchor):
    # The farthest positive with the nearest negative has the largest excess.
    largest = _largest_in_row(triplets, excess)
    n_anchors = ops.shape(triplets)[1]
    row = ops.sum(ops.where(largest, excess, 0.0), axis=1)
    best = _largest_of_anchor(
        ops.where(ops.any(largest, axis=1), row, -math.inf), anchor, n_anchors
    )
    first = -ops.arange(ops.shape(row)[0])  # breaks ties
    first = _largest_of_anchor(
        ops.where(ops.equal(row, best), first, -ops.shape(row)[0]), anchor, n_anchors
    )
    return largest & ops.equal(first, -ops.arange(ops.shape(row)[0]))[:, None]


def _batch_all(triplets, excess, anchor):
    return triplets


def _largest_of_anchor(values, anchor, n_anchors):
    """(t,) to (t,): for each row, the largest value among the rows of its anchor."""
    return ops.take(ops.segment_max(values, anchor, n_anchors), anchor)


def _largest_in_row(triplets, excess):
    """In each row, the one triplet with the largest excess; ties go to the first."""
    column = ops.cast(ops.argmax(ops.where(triplets, excess, -math.inf), axis=1), "int32")
    columns = ops.arange(ops.shape(triplets)[1], dtype="int32")
    return triplets & ops.equal(column[:, None], columns[None, :])


MININGS = {"semi-hard": _semi_hard, "batch-hard": _batch_hard, "batch-all": _batch_all}
