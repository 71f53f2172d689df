// What is wrong with this page for somebody who cannot see it well, or sees it on a phone: a list of sentences.
(() => {
  const wrong = [];
  const say = (what, element) => wrong.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
  const box = (element) => element.getBoundingClientRect();
  const shown = (element) => {
    const { width, height } = box(element);
    return width > 1 && height > 1 && element.checkVisibility({ visibilityProperty: true });
  };

  if (!document.documentElement.lang) wrong.push("the page does not say its language");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  if (!document.title.trim()) wrong.push("no title");

  const ids = new Set();
  for (const { id } of document.querySelectorAll("[id]")) {
    if (ids.has(id)) wrong.push(`the id ${id} is there twice`);
    ids.add(id);
  }
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    const named = [...field.labels].some((label) => label.textContent.trim());
    if (!named && !field.getAttribute("aria-label")) say("a field without a label", field);
  }
  for (const control of document.querySelectorAll("a[href], button, summary")) {
    if (!(control.getAttribute("aria-label") ?? control.textContent).trim()) say("a control without a name", control);
    if (shown(control) && control.tagName !== "A" && box(control).height < 24) say("a control too small to hit", control);
  }
  for (const image of document.querySelectorAll("img:not([alt])")) say("a picture without words", image);

  // Contrast as in WCAG 2.2, 1.4.3: 4.5, or 3 for large text.
  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    return layers.reverse().reduce((below, layer) => over(layer, below), canvas);
  };
  const light = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || seen.has(element) || !shown(element)) continue;
    if (element.closest("script, style, noscript, .sr")) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const paper = behind(element);
    const [a, b] = [light(over(rgba(style.color), paper)), light(paper)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) say(`contrast ${ratio.toFixed(2)}`, element);
  }

  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) wrong.push(`wider (${scrollWidth}) than the screen (${clientWidth})`);
  return wrong;
})()
