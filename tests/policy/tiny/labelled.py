"""One scene with a hand that points and one without, to label by hand."""

from PIL import Image

from pointing.scenes import Scene, SceneObject
from schemas.task import NEGATIVE, GroundTruth, RaySegment

IMAGE = Image.new("RGB", (400, 400))  # cells of 100 pixels
OBJECTS = (SceneObject((210, 10, 290, 90), "blue", "star"), SceneObject((10, 310, 90, 390), "red", "circle"))
TRUTH = GroundTruth(
    hand_bbox=(100, 150, 200, 250),  # centre (150, 200): column 1, row 2
    pointing_keypoints=((180, 160), (190, 130)),
    pointing_ray=RaySegment(start=(190, 130), end=(250, 0)),
    obj_bbox=OBJECTS[0].box,
    obj_name="blue star",
)
POSITIVE = Scene(IMAGE, TRUTH, OBJECTS, negative=False)
EMPTY = Scene(IMAGE, NEGATIVE, OBJECTS, negative=True)
