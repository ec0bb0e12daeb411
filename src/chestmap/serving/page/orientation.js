// How an image lies on the stage: turned by quarters, then mirrored. Boxes stay in the file's own pixels.

export const UPRIGHT = Object.freeze({ turn: 0, flip: false });

export const turned = ({ turn, flip }, by) => ({ turn: (turn + (flip ? -by : by) + 4) % 4, flip });
export const mirrored = ({ turn, flip }) => ({ turn, flip: !flip });

/** Width and height of the image as it lies. */
export const lying = (orientation, { width, height }) => (orientation.turn % 2 ? { width: height, height: width } : { width, height });

/** From image pixels to the lying image, whose upper left corner is 0, 0 again; in the order of CanvasRenderingContext2D.transform. */
export function matrixOf({ turn, flip }, { width, height }) {
  const matrix = [[1, 0, 0, 1, 0, 0], [0, 1, -1, 0, height, 0], [-1, 0, 0, -1, width, height], [0, -1, 1, 0, 0, width]][turn];
  if (!flip) return matrix;
  const [a, b, c, d, e, f] = matrix;
  return [-a, b, -c, d, (turn % 2 ? height : width) - e, f];
}

const apply = ([a, b, c, d, e, f], { x, y }) => ({ x: a * x + c * y + e, y: b * x + d * y + f });

export const toLying = (orientation, image, point) => apply(matrixOf(orientation, image), point);

/** The way back: the matrix is a rotation and a mirror, so its inverse is its transpose. */
export function fromLying(orientation, image, point) {
  const [a, b, c, d, e, f] = matrixOf(orientation, image);
  return { x: a * (point.x - e) + b * (point.y - f), y: c * (point.x - e) + d * (point.y - f) };
}

/** A direction on the stage as one in the image. */
export function direction(orientation, { x, y }) {
  const [a, b, c, d] = matrixOf(orientation, { width: 0, height: 0 });
  return { x: a * x + b * y, y: c * x + d * y };
}
