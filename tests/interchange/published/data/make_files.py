"""Write the files of this folder with TensorFlow: models, checkpoints, and what its own reader finds in them.

To be run once, in an environment of its own with Python 3.11::

    pip install tensorflow-cpu==2.15.1 tf_slim==1.1.0
    python make_files.py

``files.tar.xz`` has these models, with 1/32 of the channels of the published ones, each without its
``saved_model.pb``, the graph of the program, which nothing here reads:

slim_delf
    SavedModel of DELF's slim code (builder of TensorFlow 1).
keras_delg
    SavedModel of DELG's export code: a ``tf.Module`` with the Keras model in ``_model``.
keras_training
    Checkpoint of the Keras training code: model, optimizer and its slots; no subsampling, no autoencoder.
sharded
    ``Saver`` of TensorFlow 1 over several devices: three shards, a variable in partitions, all types.
many
    So many variables with so long names that the index has several blocks.

``expected.npz`` has what ``tf.train.load_checkpoint`` reads in them: ``MODEL:names`` of all variables of float32
and ``MODEL:values``, one after the other; of ``sharded`` each variable under ``sharded:NAME``. Under
``features:...``, ``scores:...`` and ``reduced:...`` it has what the networks in full width answer to
`weights.image`, run by TensorFlow with the weights of `weights.slim_weights(0)` and `weights.keras_weights(1)`:
every eighth channel of conv4, all of the others.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import keras.src.legacy_tf_layers.convolutional  # noqa: E402
import keras.src.legacy_tf_layers.normalization  # noqa: E402
import keras.src.legacy_tf_layers.pooling  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf_slim as slim  # noqa: E402
from weights import HEAD, image, keras_weights, slim_weights, units  # noqa: E402

v1 = tf.compat.v1
layers = tf.keras.layers
# TensorFlow looks for them in the package of a later Keras.
for name in ("convolutional", "normalization", "pooling"):
    sys.modules[f"tf_keras.legacy_tf_layers.{name}"] = sys.modules[f"keras.src.legacy_tf_layers.{name}"]
sys.modules["tf_keras.legacy_tf_layers"] = keras.src.legacy_tf_layers
WIDTH = 32
CHANNELS = slice(None, None, 8)
SIZES = [(49, 66), (52, 39), (52, 71)]


# ------------------------------------------------------------------ DELF of slim (research/slim/nets/resnet_v1.py)


def conv2d_same(x, channels, size, stride, scope):
    """As resnet_utils: explicit zeros around a strided convolution."""
    if stride == 1:
        return slim.conv2d(x, channels, size, stride=1, padding="SAME", scope=scope)
    low = (size - 1) // 2
    high = size - 1 - low
    x = tf.pad(x, [[0, 0], [low, high], [low, high], [0, 0]])
    return slim.conv2d(x, channels, size, stride=stride, padding="VALID", scope=scope)


def bottleneck(x, inner, stride):
    """As resnet_v1.bottleneck: the stride on the 3x3, the shortcut subsampled."""
    if x.shape[-1] == 4 * inner:
        shortcut = x if stride == 1 else slim.max_pool2d(x, [1, 1], stride=stride, scope="shortcut")
    else:
        shortcut = slim.conv2d(x, 4 * inner, [1, 1], stride=stride, activation_fn=None, scope="shortcut")
    y = slim.conv2d(x, inner, [1, 1], stride=1, scope="conv1")
    y = conv2d_same(y, inner, 3, stride, scope="conv2")
    y = slim.conv2d(y, 4 * inner, [1, 1], stride=1, activation_fn=None, scope="conv3")
    return tf.nn.relu(shortcut + y)


def slim_network(pixels, base, hidden, subsampled=True):
    """As delf_v1.py: ResNet-50 up to conv4, softplus attention; returns features and scores."""
    norm = {"is_training": False, "decay": 0.997, "epsilon": 1e-5, "scale": True}
    with slim.arg_scope(
        [slim.conv2d], activation_fn=tf.nn.relu, normalizer_fn=slim.batch_norm, normalizer_params=norm
    ):
        with v1.variable_scope("resnet_v1_50"):
            x = conv2d_same((pixels - 128.0) / 128.0, base, 7, 2, scope="conv1")
            x = slim.max_pool2d(x, [3, 3], stride=2, padding="SAME", scope="pool1")
            last = {1: 3, 2: 4, 3: 6}
            for block, unit in units():
                stride = 2 if unit == last[block] and (block < 3 or subsampled) else 1
                with v1.variable_scope(f"block{block}/unit_{unit}/bottleneck_v1"):
                    x = bottleneck(x, base * 2 ** (block - 1), stride)
        with v1.variable_scope(HEAD):
            y = slim.conv2d(x, hidden, 1, scope="conv1")
            y = slim.conv2d(y, 1, 1, activation_fn=tf.nn.softplus, normalizer_fn=None, scope="conv2")
    return x, y[..., 0]


def slim_session(weights, base, hidden, subsampled=True):
    """Build the graph and give its variables these values."""
    pixels = v1.placeholder(tf.float32, [1, None, None, 3], name="input_image")
    outputs = slim_network(pixels, base, hidden, subsampled)
    v1.train.get_or_create_global_step()
    session = v1.Session()
    variables = {variable.op.name: variable for variable in v1.global_variables()}
    assert set(variables) == set(weights), set(variables) ^ set(weights)
    for name, variable in variables.items():
        variable.load(weights[name], session)
    return session, pixels, outputs


def write_slim(folder):
    """A SavedModel as the exporter of TensorFlow 1 makes it."""
    with v1.Graph().as_default():
        session, pixels, (features, scores) = slim_session(slim_weights(0, width=WIDTH), 64 // WIDTH, 512 // WIDTH)
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder))
        signature = v1.saved_model.signature_def_utils.predict_signature_def(
            {"input_image": pixels}, {"features": features, "scores": scores}
        )
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def slim_answers():
    """Features and scores of the whole network."""
    out = {}
    for subsampled, sizes in ((True, SIZES[:2]), (False, SIZES[2:])):
        with v1.Graph().as_default():
            session, pixels, outputs = slim_session(slim_weights(0), 64, 512, subsampled)
            for size in sizes:
                features, scores = session.run(outputs, {pixels: image(*size)[None].astype(np.float32)})
                out[f"features:slim:{size[0]}x{size[1]}"] = features[0, :, :, CHANNELS]
                out[f"scores:slim:{size[0]}x{size[1]}"] = scores[0]
    return out


# ----------------------------------------------- DELG of Keras (research/delf/delf/python/training/model/*.py)


class Block(tf.keras.Model):
    """_ConvBlock and _IdentityBlock of resnet50.py."""

    def __init__(self, inner, stage, block, strides, shortcut):
        super().__init__(name="")
        conv, norm = f"res{stage}{block}_branch", f"bn{stage}{block}_branch"
        self.conv2a = layers.Conv2D(inner, (1, 1), strides=strides, name=conv + "2a")
        self.bn2a = layers.BatchNormalization(axis=3, name=norm + "2a")
        self.conv2b = layers.Conv2D(inner, 3, padding="same", name=conv + "2b")
        self.bn2b = layers.BatchNormalization(axis=3, name=norm + "2b")
        self.conv2c = layers.Conv2D(4 * inner, (1, 1), name=conv + "2c")
        self.bn2c = layers.BatchNormalization(axis=3, name=norm + "2c")
        self.shortcut = shortcut
        if shortcut:
            self.conv_shortcut = layers.Conv2D(4 * inner, (1, 1), strides=strides, name=conv + "1")
            self.bn_shortcut = layers.BatchNormalization(axis=3, name=norm + "1")

    def call(self, x, training=False):
        y = tf.nn.relu(self.bn2a(self.conv2a(x), training=training))
        y = tf.nn.relu(self.bn2b(self.conv2b(y), training=training))
        y = self.bn2c(self.conv2c(y), training=training)
        if self.shortcut:
            x = self.bn_shortcut(self.conv_shortcut(x), training=training)
        return tf.nn.relu(x + y)


class ResNet50(tf.keras.Model):
    """Up to conv4; conv5, which features never see, is left out."""

    def __init__(self, base, block3_strides):
        super().__init__(name="")
        self.conv1 = layers.Conv2D(base, (7, 7), strides=(2, 2), padding="same", name="conv1")
        self.bn_conv1 = layers.BatchNormalization(axis=3, name="bn_conv1")
        self.max_pool = layers.MaxPooling2D((3, 3), strides=(2, 2))
        for block, unit in units():
            letter, strides = "abcdef"[unit - 1], (2, 2) if unit == 1 and block > 1 else (1, 1)
            made = Block(base * 2 ** (block - 1), block + 1, letter, strides, unit == 1)
            setattr(self, f"l{block + 1}{letter}", made)
        self.block3_strides = block3_strides
        if block3_strides:
            self.subsampling_layer = layers.MaxPooling2D((1, 1), strides=(2, 2))

    def call(self, x, training=False):
        x = self.max_pool(tf.nn.relu(self.bn_conv1(self.conv1(x), training=training)))
        for block, unit in units():
            x = getattr(self, f"l{block + 1}{'abcdef'[unit - 1]}")(x, training=training)
        return self.subsampling_layer(x) if self.block3_strides else x


class AttentionModel(tf.keras.Model):
    def __init__(self, hidden):
        super().__init__(name="attention")
        self.conv1 = layers.Conv2D(hidden, 1, padding="same", name="attn_conv1")
        self.bn_conv1 = layers.BatchNormalization(axis=3, name="bn_conv1")
        self.conv2 = layers.Conv2D(1, 1, padding="same", name="attn_conv2")
        self.activation_layer = layers.Activation("softplus")

    def call(self, x, training=False):
        return self.activation_layer(self.conv2(tf.nn.relu(self.bn_conv1(self.conv1(x), training=training))))


class AutoencoderModel(tf.keras.Model):
    def __init__(self, reduced, expanded):
        super().__init__(name="autoencoder")
        self.conv1 = layers.Conv2D(reduced, 1, padding="same", name="autoenc_conv1")
        self.conv2 = layers.Conv2D(expanded, 1, activation="relu", padding="same", name="autoenc_conv2")

    def call(self, x):
        reduced = self.conv1(x)
        return self.conv2(reduced), reduced


class Delf(tf.keras.Model):
    def __init__(self, base, hidden, block3_strides, reduced):
        super().__init__(name="DELF")
        self.backbone = ResNet50(base, block3_strides)
        if reduced:
            self.autoencoder = AutoencoderModel(reduced, 16 * base)
        self.attention = AttentionModel(hidden)
        self.reduced = reduced

    def call(self, x, training=False):
        features = self.backbone(x, training=training)
        if not self.reduced:
            return features, self.attention(features, training=training), features
        expanded, reduced = self.autoencoder(features)
        return features, self.attention(expanded, training=training), reduced


class ExtractModule(tf.Module):
    """_ExtractModule of export_local_model.py, with the network's answer in place of the features of a pyramid."""

    def __init__(self, model):
        super().__init__()
        self._model = model

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, name="input_image")])
    def ExtractFeatures(self, input_image):  # noqa: N802 - its name
        pixels = (tf.cast(input_image, tf.float32) - 128.0) / 128.0
        features, scores, reduced = self._model(pixels[None], training=False)
        return {"features": features, "scores": scores, "reduced": reduced}


def keras_model(weights, base, hidden, block3_strides):
    """Build the model and give its variables these values."""
    encoder = weights.get("autoencoder/conv1/bias")
    model = Delf(base, hidden, block3_strides, None if encoder is None else len(encoder))
    model(tf.zeros([1, 64, 64, 3]))
    for path, value in weights.items():
        *parents, name = path.split("/")
        owner = model
        for parent in parents:
            owner = getattr(owner, parent)
        getattr(owner, name).assign(value)
    return model


def write_keras(folder):
    """The export of DELG, and a checkpoint in the middle of training DELF."""
    model = keras_model(keras_weights(1, width=WIDTH), 64 // WIDTH, 512 // WIDTH, True)
    module = ExtractModule(model)
    tf.saved_model.save(module, str(folder / "keras_delg"), signatures=module.ExtractFeatures)
    weights = keras_weights(2, width=WIDTH, autoencoder=False)
    model = keras_model(weights, 64 // WIDTH, 512 // WIDTH, False)
    optimizer = tf.keras.optimizers.legacy.SGD(learning_rate=0.0, momentum=0.9)  # slots, and the same weights
    trained = model.attention.trainable_variables
    optimizer.apply_gradients([(tf.ones_like(variable), variable) for variable in trained])
    checkpoint = tf.train.Checkpoint(optimizer=optimizer, model=model)
    checkpoint.save(str(folder / "keras_training" / "delf_weights"))


def keras_answers():
    """Features, scores and reduced features of the whole network."""
    out = {}
    for block3_strides, sizes in ((True, SIZES[:2]), (False, SIZES[2:])):
        module = ExtractModule(keras_model(keras_weights(1), 64, 512, block3_strides))
        for size in sizes:
            found = module.ExtractFeatures(image(*size))
            out[f"features:keras:{size[0]}x{size[1]}"] = found["features"].numpy()[0, :, :, CHANNELS]
            out[f"scores:keras:{size[0]}x{size[1]}"] = found["scores"].numpy()[0, :, :, 0]
            out[f"reduced:keras:{size[0]}x{size[1]}"] = found["reduced"].numpy()[0]
    return out


# ------------------------------------------------------------------------------------ formats for their own sake


def write_sharded(prefix):
    """Two devices make two shards; one variable lies in partitions."""
    random = np.random.RandomState(3)
    prefix.parent.mkdir()
    with v1.Graph().as_default():
        types = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64, tf.bfloat16, tf.bool)
        for place, dtype in enumerate(types):
            with v1.device(f"/cpu:{place % 2}"):
                bits = dtype == tf.bool
                value = random.randint(0, 2, (place, 3)) if bits else random.normal(0, 99, (place + 1, 2, 3))
                v1.get_variable(f"net/{dtype.name}", initializer=tf.cast(value, dtype))
        with v1.device("/cpu:1"):
            v1.get_variable("net/step", initializer=tf.constant(2**40, tf.int64))
            v1.get_variable("net/empty", initializer=tf.zeros([0, 5]))
            v1.get_variable("net/words", initializer=tf.constant(["a", "", "caf\u00e9" * 100]))
            v1.get_variable("net/word", initializer=tf.constant("one \u00e9" * 50))
        v1.get_variable(
            "net/parts",
            initializer=tf.constant(random.normal(0, 1, (6, 2)), tf.float32),
            partitioner=v1.fixed_size_partitioner(3),
        )
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=True).save(session, str(prefix), write_meta_graph=False)


def write_many(prefix):
    """An index of more than 256 KB, the size of a block."""
    prefix.parent.mkdir()
    tail = "/".join(["a_rather_long_scope"] * 12)
    with v1.Graph().as_default(), v1.Session() as session:
        variables = [v1.get_variable(f"v{i:04d}_{tail}", initializer=np.float32(i)) for i in range(1500)]
        session.run(v1.global_variables_initializer())
        v1.train.Saver(variables).save(session, str(prefix), write_meta_graph=False)


def main():
    expected = {**slim_answers(), **keras_answers()}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_slim(root / "slim_delf")
        write_keras(root)
        write_sharded(root / "sharded" / "model")
        write_many(root / "many" / "model")
        saved = {"slim_delf": "variables/variables", "keras_delg": "variables/variables"}
        saved |= {"keras_training": "delf_weights-1", "sharded": "model", "many": "model"}
        for model, prefix in saved.items():
            reader = tf.train.load_checkpoint(str(root / model / prefix))
            found = {name: reader.get_tensor(name) for name in sorted(reader.get_variable_to_shape_map())}
            if model == "sharded":  # bfloat16 and several words are there to be refused
                found["net/word"] = np.frombuffer(found["net/word"], np.uint8)
                kept = {name: value for name, value in found.items() if value.dtype.kind in "fiub"}
                expected |= {f"{model}:{name}": value for name, value in kept.items()}
            else:
                floats = [name for name, value in found.items() if getattr(value, "dtype", None) == np.float32]
                expected[f"{model}:names"] = np.array(floats)
                expected[f"{model}:values"] = np.concatenate([found[name].ravel() for name in floats])
        with tarfile.open(HERE / "files.tar.xz", "w:xz") as tar:
            for path in sorted(root.rglob("*")):
                if path.is_file() and path.name != "saved_model.pb":
                    tar.add(path, path.relative_to(root))
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
