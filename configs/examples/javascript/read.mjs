// Read a slice of a store over HTTP, in Node or, with a bundler, in a browser.
//
//     npm install
//     python3 -m http.server --directory ../../../out 8000 &
//     node read.mjs http://127.0.0.1:8000/digits.zarr
//
// Python's server sends whole files, which serves small stores. One whose blocks hold several chunks
// asks for a server that knows range requests, as nginx, Caddy and every object store do.

import * as zarr from "zarrita";

function end(told) {
  console.error(told);
  process.exit(1);
}

// Of what is not there zarrita says so in an error of this name; all others are the reader's own
const absent = (told) => (error) => {
  if (error.name !== "NotFoundError") throw error;
  end(told);
};

const url = process.argv[2];
if (!url) end("Say which store: node read.mjs http://127.0.0.1:8000/digits.zarr");

const root = zarr.root(new zarr.FetchStore(url));
const group = await zarr.open(root, { kind: "group" }).catch(absent(`${url}: there is no store.`));
console.log("state:", group.attrs.colonnade.state);

const jacobian = await zarr.open(root.resolve("jacobian"), { kind: "array" }).catch(
  absent(
    `${url} holds no array jacobian: a store of layout factored holds slopes, of which it is ` +
      'made as "Layouts" in the README says, or by colonnade materialize.',
  ),
);
console.log(jacobian.dimensionNames, jacobian.shape);

// The block of column 17: row by row, an output each. Only the chunk that holds it is fetched.
const { data, shape } = await zarr.get(jacobian, [17, null, null]);
const largest = data.reduce((best, value, at) => (Math.abs(value) > Math.abs(data[best]) ? at : best), 0);
const [i, j] = [Math.floor(largest / shape[1]), largest % shape[1]];
console.log(`column 17: output ${i} answers most to input ${j}: ${data[largest].toFixed(4)}`);
