<?php
// Asks for the type of a column, for which the extension fetches all types that the database has.
$connection = pg_connect($argv[1]);
$result = pg_query($connection, 'SELECT 1 AS number');
echo 'ready ', getmypid(), "\n";
fgets(STDIN);
echo pg_field_type($result, 0), "\n";
fgets(STDIN);
