// Short names for what all parts of the page do with its elements.

export const $ = (name) => document.getElementById(name);

export const element = (kind, fields = {}, ...children) => {
  const node = Object.assign(document.createElement(kind), fields);
  node.append(...children);
  return node;
};

export async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
