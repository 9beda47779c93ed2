"""The explorer: a local page that shows what a network needs to see. It makes no requests to other machines.

- `app`: the server and its routes; `guard` refuses requests of other pages, `slow_clients` limits time and connections;
- `tabs`: the pictures and jobs of each tab, within a memory for all; `jobs`: the queue of jobs, which run one at a time;
- `explaining`: the work of a job: a question, its method, and the events for the page; `exports`: results as files;
- `warm_up`: a first search before the page is served; `uploads`, `images`: pictures in and out;
- `page`: HTML, script and style.
"""
