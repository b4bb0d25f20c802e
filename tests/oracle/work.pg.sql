-- Work for a backend of PostgreSQL that takes many ways through it: parser, planner, executor, and
-- functions in PL/pgSQL and SQL that call each other down to a random depth.
SET client_min_messages = error;
SELECT setseed(0.5);
CREATE TEMP TABLE t (id serial PRIMARY KEY, name text UNIQUE, value numeric, parent int REFERENCES t (id) ON DELETE CASCADE, tags text[], data jsonb);
CREATE INDEX ON t USING gin (data);
CREATE INDEX ON t (lower(name), value) WHERE value > 1;
INSERT INTO t (name, value, tags, data) SELECT 'name ' || n, n % 17, ARRAY[n::text, 'x'], jsonb_build_object('a', n, 'b', ARRAY[1, n]) FROM generate_series(1, 300) n;
UPDATE t SET parent = id / 2 WHERE id > 1;
CREATE FUNCTION pg_temp.leaf() RETURNS int LANGUAGE plpgsql AS $$
DECLARE r record; n int := floor(random() * 14);
BEGIN
    IF n = 0 THEN PERFORM count(*) FROM t a JOIN t b ON a.parent = b.id WHERE a.value > 3;
    ELSIF n = 1 THEN PERFORM string_agg(name, ',' ORDER BY value DESC) FROM t;
    ELSIF n = 2 THEN PERFORM rank() OVER (PARTITION BY value ORDER BY id) FROM t;
    ELSIF n = 3 THEN PERFORM regexp_replace(name, '(n|a)+m' || floor(random() * 100), 'x', 'g') FROM t LIMIT 5;
    ELSIF n = 4 THEN PERFORM jsonb_agg(data) FROM t WHERE data @> '{"b": [1]}';
    ELSIF n = 5 THEN PERFORM * FROM t WHERE data ->> 'a' LIKE '%' || floor(random() * 9) || '%' ORDER BY name LIMIT 3;
    ELSIF n = 6 THEN WITH RECURSIVE c AS (SELECT id FROM t WHERE id = 7 UNION SELECT t.id FROM t JOIN c ON t.parent = c.id) SELECT count(*) INTO n FROM c;
    ELSIF n = 7 THEN EXECUTE 'SELECT to_char(now(), ''YYYY-MM-DD'') || ' || floor(random() * 1000);
    ELSIF n = 8 THEN PERFORM xmlparse(CONTENT '<a>text</a>');
    ELSIF n = 9 THEN PERFORM to_tsvector('english', name) @@ to_tsquery('english', 'name & 5') FROM t LIMIT 20;
    ELSIF n = 10 THEN INSERT INTO t (name) VALUES (random()::text) ON CONFLICT (name) DO UPDATE SET value = 1;
    ELSIF n = 11 THEN FOR r IN SELECT * FROM t ORDER BY random() LIMIT 3 LOOP n := r.id; END LOOP;
    ELSIF n = 12 THEN PERFORM sum(value) FROM t GROUP BY ROLLUP (parent, value);
    ELSE PERFORM unnest(tags), array_agg(id) FROM t GROUP BY 1 LIMIT 3;
    END IF;
    RETURN n;
EXCEPTION WHEN others THEN RETURN -1;
END $$;
CREATE FUNCTION pg_temp.nest(depth int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE r record; n int := floor(random() * 9); result int := 0;
BEGIN
    IF depth <= 0 OR random() < 0.15 THEN RETURN pg_temp.leaf(); END IF;
    IF n = 0 THEN result := pg_temp.nest(depth - 1);
    ELSIF n = 1 THEN PERFORM pg_temp.nest(depth - 1) FROM t LIMIT 1;
    ELSIF n = 2 THEN SELECT pg_temp.by_sql(depth - 1) INTO result;
    ELSIF n = 3 THEN EXECUTE 'SELECT pg_temp.nest($1)' INTO result USING depth - 1;
    ELSIF n = 4 THEN FOR r IN SELECT pg_temp.nest(depth - 1) AS n LOOP result := r.n; END LOOP;
    ELSIF n = 5 THEN BEGIN result := pg_temp.nest(depth - 1); RAISE EXCEPTION 'text'; EXCEPTION WHEN others THEN result := pg_temp.leaf(); END;
    ELSIF n = 6 THEN PERFORM sum(pg_temp.nest(depth - 1)) FROM generate_series(1, 2);
    ELSIF n = 7 THEN PERFORM 1 FROM t WHERE id < 3 AND pg_temp.nest(depth - 1) > 0 ORDER BY pg_temp.leaf();
    ELSE PERFORM CASE WHEN depth > 2 THEN pg_temp.nest(depth - 1) ELSE pg_temp.leaf() END;
    END IF;
    RETURN result;
END $$;
CREATE FUNCTION pg_temp.by_sql(depth int) RETURNS int LANGUAGE sql AS 'SELECT pg_temp.nest($1) + (SELECT count(*)::int FROM t WHERE id < $1)';
SELECT pg_temp.nest((1 + random() * 4)::int) FROM generate_series(1, 150);
DISCARD PLANS;
SELECT pg_temp.nest((1 + random() * 4)::int) FROM generate_series(1, 100);
