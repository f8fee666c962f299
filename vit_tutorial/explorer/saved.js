// A model as an explorer expects it, with nobody behind it: its state is written in the page.

function decoded(value) {
  if (Array.isArray(value)) return value.map(decoded);
  if (value === null || typeof value !== "object") return value;
  if (!("bytes" in value)) return value;
  const text = atob(value.bytes);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export function savedModel(state) {
  const listeners = {};
  for (const [name, value] of Object.entries(state)) state[name] = decoded(value);
  return {
    get: (name) => state[name],
    set: (name, value) => {
      if (state[name] === value) return;
      state[name] = value;
      for (const listener of listeners[`change:${name}`] ?? []) listener();
    },
    save_changes: () => {},
    on: (event, listener) => { (listeners[event] ??= []).push(listener); },
    off: (event, listener) => {
      listeners[event] = (listeners[event] ?? []).filter((other) => other !== listener);
    },
  };
}
